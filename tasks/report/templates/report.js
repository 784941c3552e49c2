// Draws the report's charts from the figures in the page, in the page's own colours, light or dark.
(() => {
  "use strict";
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const root = document.documentElement;
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const coarse = matchMedia("(pointer: coarse)").matches;
  const drawn = {};
  const DAY = 86400000;

  // Days are UTC: nothing here is in the reader's own time.
  const at = (day) => Date.parse(day + "T00:00:00Z");
  const dayFormat = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short", year: "numeric", timeZone: "UTC" });
  const tickFormat = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short", timeZone: "UTC" });
  const monthFormat = new Intl.DateTimeFormat("en-GB", { month: "short", year: "numeric", timeZone: "UTC" });
  // As many decimals as the page's text: those of the forecast, below 1 five significant digits, and more where
  // `other`, the other end of an interval, is near; at most 15 significant digits.
  const magnitude = (size) => Math.floor(Math.log10(size));
  const price = (value, other = value) => {
    if (value === null || value === undefined) return "–";
    const sizes = [value, other].map(Math.abs).filter((size) => size > 0);
    const own = sizes.filter((size) => size < 1).map((size) => Math.max(6, 4 - magnitude(size)));
    if (other !== value) own.push(1 - magnitude(Math.abs(other - value)));
    const most = sizes.length ? Math.max(2, 14 - magnitude(Math.max(...sizes))) : 2;
    const digits = Math.min(20, most, Math.max(2, figures.fan.decimals, ...own));
    return value.toLocaleString("en-US", { minimumFractionDigits: digits, maximumFractionDigits: digits });
  };
  const range = (low, high) => price(low, high) + " to " + price(high, low);
  // Ticks are round: their digits tell them apart however narrow the axis is, and no float's own error shows.
  const shortNumber = (value) => Number(value.toPrecision(12)).toLocaleString("en-US", { maximumSignificantDigits: 12 });
  const percent = (share) => (share === null ? "–" : (100 * share).toFixed(1) + " %");

  // A page that no run replaces any more cannot know its age: the reader's clock does.
  const notes = document.getElementById("notes");
  const passed = (day) => Math.floor((Date.now() - at(day)) / DAY);
  const count = passed(notes.dataset.written);
  if (count > 0 && passed(notes.dataset.target) > 0) {
    const old = document.createElement("li");
    old.id = "old";
    old.textContent = `This page is ${count.toLocaleString("en-US")} day${count === 1 ? "" : "s"} old, and the first day of its forecast is over. `
      + (count === 1 ? "The next run writes a newer one." : "If runs should write it daily, they have stopped or fail, or this is a copy.");
    notes.firstElementChild.prepend(old);
    notes.hidden = false;
  }

  const colours = () => {
    const style = getComputedStyle(root);
    const names = ["paper", "card", "ink", "muted", "line", "grid", "blue", "band", "orange", "green"];
    return Object.fromEntries(names.map((name) => [name, style.getPropertyValue("--" + name).trim()]));
  };
  const font = getComputedStyle(document.body).fontFamily;
  const narrow = (element) => element.clientWidth < 560;

  // The width in pixels of the longest of some texts in a chart's font, and never less than `least`.
  const pen = document.createElement("canvas").getContext("2d");
  const textWidth = (texts, least, weight = 400) => {
    pen.font = `${weight} 12px ${font}`;
    return Math.max(least, ...texts.map((text) => Math.ceil(pen.measureText(text).width)));
  };
  // The width of an axis of these prices: a digit more than steps of a fifth of their span need.
  const axisWidth = (prices, least) => {
    const all = prices.filter((one) => one !== null), most = Math.max(...all);
    const step = (most - Math.min(...all)) / 5 || most;
    const digits = Math.min(20, Math.max(0, 1 - Math.floor(Math.log10(step))));
    return textWidth([most.toLocaleString("en-US", { minimumFractionDigits: digits, maximumFractionDigits: digits })], least - 14) + 14;
  };

  // A tooltip's lines: pairs of a name and a value, all made here of figures and fixed words.
  const lines = (title, pairs) =>
    `<strong>${title}</strong>` + pairs.map(([name, value]) => `<br>${name}: ${value}`).join("");

  const base = (c) => ({
    animation: false,
    useUTC: true,
    textStyle: { fontFamily: font, color: c.ink },
    tooltip: {
      trigger: "axis", confine: true, className: "tip", backgroundColor: c.card, borderColor: c.line, padding: [8, 12],
      textStyle: { color: c.ink, fontSize: 13, fontFamily: font },
      axisPointer: { type: "line", lineStyle: { color: c.muted, type: "dashed" }, label: { show: false } },
      extraCssText: "box-shadow: 0 2px 10px rgba(0,0,0,.14); font-variant-numeric: tabular-nums;",
    },
  });
  const valueAxis = (c, more) => ({
    type: "value", scale: true, axisLabel: { color: c.muted, fontSize: 12, formatter: shortNumber },
    splitLine: { lineStyle: { color: c.grid }, showMinLine: false, showMaxLine: false }, axisLine: { show: false }, axisTick: { show: false }, ...more,
  });
  const timeAxis = (c, element, more) => ({
    type: "time", splitNumber: narrow(element) ? 3 : 7, minInterval: DAY,
    axisLabel: { color: c.muted, fontSize: 12, hideOverlap: true, formatter: (value) => tickFormat.format(value) },
    axisLine: { lineStyle: { color: c.line } }, axisTick: { lineStyle: { color: c.line } }, splitLine: { show: false },
    ...more,
  });
  // On a touch screen a finger on the chart scrolls the page; elsewhere Ctrl and the wheel zoom, dragging moves.
  const inside = (index) => ({
    type: "inside", xAxisIndex: index, zoomOnMouseWheel: "ctrl", moveOnMouseMove: true, moveOnMouseWheel: false,
    preventDefaultMouseMove: false, disabled: coarse, minValueSpan: 6 * DAY, filterMode: "filter",
  });
  const slider = (c, index, bottom) => ({
    type: "slider", xAxisIndex: index, bottom, height: coarse ? 30 : 22, borderColor: c.line, fillerColor: c.band + "26",
    handleStyle: { color: c.card, borderColor: c.muted }, moveHandleStyle: { color: c.muted, opacity: 0.35 },
    dataBackground: { lineStyle: { color: c.muted, opacity: 0.5 }, areaStyle: { opacity: 0 } },
    selectedDataBackground: { lineStyle: { color: c.blue }, areaStyle: { opacity: 0 } },
    handleSize: "120%", brushSelect: false, showDetail: false, minValueSpan: 6 * DAY, filterMode: "filter",
    emphasis: { handleStyle: { borderColor: c.blue } },
  });

  const options = {};

  // The bounds of a run's intervals, outermost first; none of a point.
  const BANDS = [95, 80, 50];
  const bounds = (run, percents) => percents.flatMap((one) => [...(run["lower_" + one] || []), ...(run["upper_" + one] || [])]);
  // The fan's scale: that of the closes in the zoom and of everything ahead.
  const fanScale = (f, from) => {
    const zoomed = f.closes.filter((close, n) => close !== null && at(f.days[n]) >= from);
    const all = [...zoomed, f.ahead.last, ...f.ahead.point, ...bounds(f.ahead, BANDS), ...(f.earlier ? bounds(f.earlier, [80]) : [])];
    const least = Math.min(...all), most = Math.max(...all), margin = (most - least) * 0.04 || Math.abs(most) * 0.01;
    return { min: least - margin, max: most + margin };
  };

  options.fan = (f, c, element) => {
    const small = narrow(element), { ahead, earlier } = f;
    const intervals = Boolean(ahead.lower_80), final = ahead.days.length - 1, end = at(ahead.days[final]);
    // From the last close, which is known, through each forecast day.
    const path = (run, name) => [[at(run.origin), run.last], ...run.days.map((day, n) => [at(day), run[name][n]])];
    const quiet = { type: "line", silent: true, showSymbol: false, symbol: "none", tooltip: { show: false } };
    const dashed = (name) => ({ ...quiet, name: "earlier", data: path(earlier, name), z: 3, lineStyle: { color: c.orange, width: 1.1, type: [4, 4] } });
    const marks = intervals
      ? [["95 %", ahead.upper_95], ["80 %", ahead.upper_80], ["", ahead.point], ["80 %", ahead.lower_80], ["95 %", ahead.lower_95]].map(([words, row]) => [row[final], words])
      : [[ahead.point[final], ""]];
    const label = ([value, words]) => (words && !small ? words + "  " : "") + price(value);
    const left = axisWidth([...f.closes, ...ahead.point, ...bounds(ahead, BANDS)], small ? 50 : 64);
    const right = textWidth(marks.map(label), small ? 62 : 98, 600) + 12;
    return {
      ...base(c),
      tooltip: {
        ...base(c).tooltip,
        formatter: ([point]) => {
          const day = new Date(point.value[0]).toISOString().slice(0, 10);
          if (point.seriesName === "close") return lines(dayFormat.format(point.value[0]), [["close", price(point.value[1])]]);
          const n = ahead.days.indexOf(day), before = earlier ? earlier.days.indexOf(day) : -1;
          const days = (at(day) - at(ahead.origin)) / DAY;
          const rows = [[intervals ? "median" : "forecast", price(ahead.point[n])]];
          if (intervals) for (const one of [50, 80, 95]) rows.push([one + " %", range(ahead["lower_" + one][n], ahead["upper_" + one][n])]);
          if (before >= 0) rows.push(["80 % as forecast from " + tickFormat.format(at(earlier.origin)), range(earlier.lower_80[before], earlier.upper_80[before])]);
          return lines(`${dayFormat.format(at(day))}, ${days} day${days === 1 ? "" : "s"} ahead`, rows);
        },
      },
      grid: { left, right, top: 14, bottom: 30, containLabel: false },
      xAxis: timeAxis(c, element, { splitNumber: small ? 3 : 8, min: at(f.days[0]), max: end }),
      yAxis: valueAxis(c, { ...fanScale(f, 0), axisLabel: { color: c.muted, fontSize: 12, showMinLabel: false, showMaxLabel: false, formatter: shortNumber } }),
      // What lies outside of the zoom is cut off, not left out: a band is one shape.
      dataZoom: [{ ...inside([0]), filterMode: "none" }],
      series: [
        { name: "close", type: "line", data: f.days.map((day, n) => [at(day), f.closes[n]]), z: 4,
          showSymbol: false, symbolSize: 7, connectNulls: false, lineStyle: { color: c.ink, width: 1.6 }, itemStyle: { color: c.ink },
          markLine: { silent: true, symbol: "none", label: { show: false }, lineStyle: { color: c.muted, type: "dotted", width: 1 }, data: [{ xAxis: at(ahead.origin) }] } },
        { name: "ahead", type: "scatter", data: ahead.days.map((day, n) => [at(day), ahead.point[n]]), symbolSize: small ? 4 : 5, z: 6, clip: false,
          itemStyle: { color: c.blue, opacity: 1 } },
        ...(intervals ? BANDS : []).map((one) => ({
          name: "band", type: "custom", silent: true, clip: true, z: 2, tooltip: { show: false }, data: [[at(ahead.origin), ahead.last]],
          renderItem: (_, api) => ({
            type: "polygon", style: { fill: c.band, opacity: 0.2 },
            shape: { points: [...path(ahead, "upper_" + one), ...path(ahead, "lower_" + one).reverse()].map((point) => api.coord(point)) },
          }),
        })),
        ...(earlier ? ["upper_80", "point", "lower_80"].map(dashed) : []),
        { ...quiet, name: "median", data: path(ahead, "point"), z: 5, lineStyle: { color: c.blue, width: 2 } },
        { name: "marks", type: "custom", silent: true, clip: false, tooltip: { show: false }, data: [[end, ahead.point[final]]],
          renderItem: (_, api) => {
            let edge = -Infinity;
            const children = [];
            for (const [value, words] of marks) {
              const [x, y] = api.coord([end, value]);
              const shown = Math.max(y, edge + 15);
              edge = shown;
              const strong = !words;
              children.push({ type: "line", shape: { x1: x - 4, y1: y, x2: x + 5, y2: shown }, style: { stroke: strong ? c.blue : c.muted, lineWidth: 1 } });
              children.push({ type: "text", x: x + 8, y: shown, style: {
                text: label([value, words]), fill: strong ? c.blue : c.muted,
                font: `${strong ? 600 : 400} 12px ${font}`, verticalAlign: "middle" } });
            }
            return { type: "group", children };
          } },
      ],
    };
  };

  options.past = (f, c, element) => {
    const small = narrow(element), days = f.days.map(at), intervals = Boolean(f.lower_80);
    const outcome = (n) => intervals
      ? (f.covered_80[n] ? "hit" : f.covered_95[n] ? "miss" : "far")
      : (Math.abs(f.point[n] - f.close[n]) < Math.abs(f.last_close[n] - f.close[n]) ? "hit" : "miss");
    const points = (kind, column) => days.map((day, n) => [day, f[column][n], n]).filter(([, , n]) => outcome(n) === kind);
    const scatter = (name, kind, column, symbol, size, colour) => ({
      name, type: "scatter", data: points(kind, column), symbol, symbolSize: size, itemStyle: { color: colour, opacity: 1 }, z: 5,
    });
    const series = intervals ? [
      { name: "intervals", type: "custom", silent: true, z: 2, encode: { x: 0, y: [1, 2, 3, 4] },
        data: days.map((day, n) => [day, f.lower_95[n], f.lower_80[n], f.upper_80[n], f.upper_95[n]]),
        renderItem: (params, api) => {
          const spread = api.coord([api.value(0) + DAY, 0])[0] - api.coord([api.value(0), 0])[0];
          const half = Math.max(0.75, Math.min(6, spread * 0.32));
          const box = (low, high, wide) => {
            const [x, top] = api.coord([api.value(0), api.value(high)]);
            const bottom = api.coord([api.value(0), api.value(low)])[1];
            return { type: "rect", shape: { x: x - wide, y: top, width: 2 * wide, height: bottom - top }, style: { fill: c.band, opacity: 0.38 } };
          };
          return { type: "group", children: [box(1, 4, Math.min(half, 0.75)), box(2, 3, half)] };
        } },
      scatter("close", "hit", "close", "circle", small ? 4 : 5, c.ink),
      scatter("outside 80 %", "miss", "close", "diamond", small ? 8 : 10, c.orange),
      scatter("outside 95 %", "far", "close", "triangle", small ? 9 : 11, c.orange),
    ] : [
      { name: "close", type: "line", data: days.map((day, n) => [day, f.close[n]]), showSymbol: false, lineStyle: { color: c.blue, width: 1.6 }, itemStyle: { color: c.blue } },
      scatter("nearer", "hit", "point", "circle", 6, c.ink),
      scatter("further off", "miss", "point", "diamond", 9, c.orange),
    ];
    // Invisible, so that the pointer meets a day wherever it is.
    series.unshift({ name: "finder", type: "line", data: days.map((day, n) => [day, f.close[n], n]), lineStyle: { opacity: 0 }, symbol: "none", silent: true });
    const words = intervals ? { hit: "inside 80 %", miss: "outside 80 %", far: "outside 95 %" }
      : { hit: "nearer than the last close", miss: "further off than the last close" };
    return {
      ...base(c),
      tooltip: {
        ...base(c).tooltip,
        formatter: ([point]) => {
          const n = f.days.indexOf(new Date(point.value[0]).toISOString().slice(0, 10));
          const pairs = [["actual close", price(f.close[n])], ["forecast", price(f.point[n])], ["last close", price(f.last_close[n])]];
          if (intervals) for (const level of [50, 80, 95]) pairs.push([`${level} %`, range(f["lower_" + level][n], f["upper_" + level][n])]);
          return lines(dayFormat.format(days[n]), [...pairs, ["outcome", words[outcome(n)]]]);
        },
      },
      grid: { left: axisWidth(intervals ? [...f.lower_95, ...f.upper_95, ...f.close] : [...f.point, ...f.close], small ? 50 : 64), right: 14, top: 14, bottom: coarse ? 76 : 68 },
      xAxis: timeAxis(c, element, { boundaryGap: false, min: days[0] - DAY, max: days[days.length - 1] + DAY }),
      yAxis: valueAxis(c),
      dataZoom: [inside([0]), slider(c, [0], 8)],
      series,
    };
  };

  options.width = (f, c, element) => {
    const days = f.days.map(at), share = (value) => shortNumber(100 * value) + " %";
    const ticks = (value) => shortNumber(Number((100 * value).toPrecision(6))) + " %";
    return {
      ...base(c),
      tooltip: { ...base(c).tooltip, formatter: ([point]) => lines(dayFormat.format(point.value[0]), [["80 % interval", share(point.value[1]) + " wide"]]) },
      grid: { left: 58, right: 14, top: 14, bottom: 30 },
      xAxis: timeAxis(c, element, { min: "dataMin", max: "dataMax" }),
      yAxis: valueAxis(c, { scale: false, min: 0, splitNumber: 4, axisLabel: { color: c.muted, fontSize: 12, formatter: ticks } }),
      dataZoom: [inside([0])],
      series: [{ name: "width", type: "line", data: days.map((day, n) => [day, f.width_80[n]]), showSymbol: days.length < 3, symbolSize: 6,
        lineStyle: { color: c.blue, width: 1.8 }, itemStyle: { color: c.blue } }],
    };
  };

  options.pit = (f, c) => ({
    ...base(c),
    tooltip: {
      ...base(c).tooltip, axisPointer: { type: "none" },
      formatter: ([bar]) => lines(`${bar.dataIndex * 10} to ${bar.dataIndex * 10 + 10} % of the forecast`,
        [["closes", f.counts[bar.dataIndex]], ["expected", f.expected], ["by chance", `${f.lower} to ${f.upper}`]]),
    },
    grid: { left: 40, right: 14, top: 14, bottom: 46 },
    xAxis: { type: "category", data: f.counts.map((_, n) => String(n * 10)), name: "part of the forecast, %", nameLocation: "middle", nameGap: 28,
      nameTextStyle: { color: c.muted, fontSize: 12 }, axisLabel: { color: c.muted, fontSize: 12, align: "left", interval: 1 },
      axisLine: { lineStyle: { color: c.line } }, axisTick: { show: false } },
    yAxis: valueAxis(c, { scale: false, minInterval: 1, max: Math.ceil(1.1 * Math.max(...f.counts, f.upper)),
      axisLabel: { color: c.muted, fontSize: 12, showMaxLabel: false } }),
    series: [{
      type: "bar", barCategoryGap: "8%", itemStyle: { color: c.band, opacity: 0.75 },
      data: f.counts.map((count) => (count < f.lower || count > f.upper ? { value: count, itemStyle: { color: c.orange, opacity: 0.9 } } : count)),
      markArea: { silent: true, itemStyle: { color: c.muted, opacity: 0.18 }, data: [[{ yAxis: f.lower }, { yAxis: f.upper }]] },
      markLine: { silent: true, symbol: "none", label: { show: false }, lineStyle: { color: c.ink, type: "solid", width: 1 }, data: [{ yAxis: f.expected }] },
    }],
  });

  options.coverage = (f, c, element) => {
    const days = f.days.map(at), paint = { 50: c.orange, 80: c.blue, 95: c.green };
    const shares = [50, 80, 95].flatMap((level) => [...f["running_" + level], ...f["lower_" + level]]);
    const lowest = Math.floor(10 * Math.min(...shares) + 1e-9) / 10;
    const series = [50, 80, 95].flatMap((level) => {
      const row = (name) => days.map((day, n) => [day, f[name + "_" + level][n]]);
      const low = f["lower_" + level], high = f["upper_" + level];
      return [
        { name: "floor", type: "line", stack: "band" + level, silent: true, symbol: "none", lineStyle: { opacity: 0 }, data: row("lower"), stackStrategy: "all" },
        { name: "band", type: "line", stack: "band" + level, silent: true, symbol: "none", lineStyle: { opacity: 0 }, stackStrategy: "all",
          areaStyle: { color: paint[level], opacity: 0.16 }, data: days.map((day, n) => [day, high[n] - low[n]]) },
        { name: level + " %", type: "line", showSymbol: days.length < 2, symbolSize: 7, data: row("running"), lineStyle: { color: paint[level], width: 2 }, itemStyle: { color: paint[level] },
          markLine: { silent: true, symbol: "none", label: { show: false }, lineStyle: { color: paint[level], type: "dashed", width: 1, opacity: 0.7 }, data: [{ yAxis: level / 100 }] } },
      ];
    });
    return {
      ...base(c),
      tooltip: {
        ...base(c).tooltip,
        formatter: ([{ dataIndex: n }]) => {
          const pairs = [50, 80, 95].map((level) => [`${level} %`, `covered ${percent(f["running_" + level][n])} (band ${percent(f["lower_" + level][n])} to ${percent(f["upper_" + level][n])})`]);
          return lines(dayFormat.format(days[n]), pairs);
        },
      },
      grid: { left: 44, right: 14, top: 14, bottom: 30 },
      xAxis: timeAxis(c, element, { splitNumber: 3, min: "dataMin", max: "dataMax" }),
      yAxis: valueAxis(c, { scale: false, min: lowest, max: 1, interval: 0.1, axisLabel: { color: c.muted, fontSize: 12, formatter: (value) => Math.round(100 * value) + " %" } }),
      dataZoom: [inside([0])],
      series,
    };
  };

  options.losses = (f, c, element) => {
    const paint = [c.blue, c.orange, c.green, c.ink, c.muted];
    const single = f.networks.length === 1;
    const series = f.networks.flatMap((network, n) => {
      const colour = paint[n % paint.length];
      const best = network.best && network.validation[network.best - 1] !== null ? network.best : null;
      const line = (name, losses, type, paintIt) => ({
        name, type: "line", data: losses.map((loss, epoch) => [epoch + 1, loss]), showSymbol: losses.length < 2, symbolSize: 6,
        lineStyle: { color: paintIt, width: type === "solid" ? 1.8 : 1.2, type }, itemStyle: { color: paintIt },
      });
      const marked = { name: network.name + ", best", type: "scatter", silent: true, symbol: "circle", symbolSize: 9,
        itemStyle: { color: c.paper, borderColor: single ? c.orange : colour, borderWidth: 2 }, data: best ? [[best, network.validation[best - 1]]] : [], z: 6 };
      return [line((single ? "" : network.name + ", ") + "training", network.training, "dotted", colour),
        line((single ? "" : network.name + ", ") + "validation", network.validation, "solid", single ? c.orange : colour), marked];
    });
    const losses = f.networks.flatMap((network) => [...network.training, ...network.validation]).filter((loss) => loss !== null);
    // The axis takes about a fifth of the span as its step: as many decimals as that has.
    const step = (Math.max(...losses) - Math.min(...losses)) / 5 || 1;
    const decimals = Math.min(12, Math.max(0, 1 - Math.floor(Math.log10(step))));
    const loss = (value) => String(Number(wide ? value.toPrecision(6) : value.toFixed(decimals)));
    const wide = Math.min(...losses) > 0 && Math.max(...losses) / Math.min(...losses) > 5;
    return {
      ...base(c),
      tooltip: { ...base(c).tooltip, formatter: (points) => lines("epoch " + points[0].value[0], points.filter((one) => one.value[1] !== null && one.value[1] !== undefined && !one.seriesName.endsWith("best"))
        .map((one) => [one.seriesName, Number(one.value[1].toPrecision(5))])) },
      grid: { left: 58, right: 14, top: 14, bottom: 46 },
      xAxis: { type: "value", min: 1, max: Math.max(2, ...f.networks.map((network) => network.training.length)), minInterval: 1, name: "epoch", nameLocation: "middle", nameGap: 28,
        nameTextStyle: { color: c.muted, fontSize: 12 }, axisLabel: { color: c.muted, fontSize: 12, hideOverlap: true }, axisLine: { lineStyle: { color: c.line } }, axisTick: { show: false }, splitLine: { show: false } },
      yAxis: valueAxis(c, { type: wide ? "log" : "value", axisLabel: { color: c.muted, fontSize: 12, formatter: loss } }),
      dataZoom: [{ ...inside([0]), minValueSpan: 4 }],
      series,
    };
  };

  // A chart's first day, its newest day with an outcome, and its end, whatever its zoom.
  const reach = (name) => {
    const days = figures[name].days.map(at), newest = days[days.length - 1];
    return [days[0], newest, name === "fan" ? at(figures.fan.ahead.days[figures.fan.ahead.days.length - 1]) : newest];
  };
  // Where a zoom to the newest days begins, in percent of the whole; 0 days are all.
  const startOf = (name, days) => {
    const [first, newest, end] = reach(name);
    return days && newest - first > days * DAY ? (100 * (newest - days * DAY - first)) / (end - first) : 0;
  };
  const press = (name) => {
    const zoom = (drawn[name].getOption().dataZoom || [])[0];
    const buttons = document.querySelectorAll(`button[data-chart="${name}"]`);
    for (const button of buttons) {
      const days = Number(button.dataset.days), start = startOf(name, days);
      button.setAttribute("aria-pressed", String(Math.abs(zoom.start - start) < 0.5 && zoom.end > 99.5));
      button.hidden = days !== 0 && start === 0;
    }
    const all = buttons[buttons.length - 1];
    if (all) all.hidden = [...buttons].every((one) => one === all || one.hidden);
  };
  const zoomed = (name) => {
    if (name === "fan") {
      const [first, , end] = reach(name), zoom = drawn.fan.getOption().dataZoom[0];
      drawn.fan.setOption({ yAxis: fanScale(figures.fan, first + ((end - first) * zoom.start) / 100) });
    }
    press(name);
  };
  const zoomTo = (name, days) => drawn[name].dispatchAction({ type: "dataZoom", start: startOf(name, days), end: 100 });

  const draw = (name) => {
    const element = document.getElementById("chart-" + name);
    const before = drawn[name] && drawn[name].getOption().dataZoom;
    const option = options[name](figures[name], colours(), element);
    if (drawn[name]) (option.dataZoom || []).forEach((zoom) => Object.assign(zoom, { start: before[0].start, end: before[0].end }));
    else {
      const inner = document.createElement("div");
      inner.style.height = "100%";
      inner.setAttribute("aria-hidden", "true");
      element.append(inner);
      drawn[name] = echarts.init(inner, null, { renderer: "svg" });
      drawn[name].on("datazoom", () => zoomed(name));
    }
    drawn[name].setOption(option, true);
    zoomed(name);
  };

  // Arrow keys walk through a chart's points; the text of its tooltip is announced by a screen reader, too.
  const steps = (name) => ({ fan: figures.fan.days.length + figures.fan.ahead.days.length, pit: figures.pit && figures.pit.counts.length,
    losses: figures.losses && Math.max(...figures.losses.networks.map((network) => network.training.length)) })[name] || figures[name].days.length;
  const current = {};
  const show = (name, index) => {
    const chart = drawn[name], count = steps(name);
    current[name] = Math.max(0, Math.min(count - 1, index));
    const beyond = name === "fan" ? current[name] - figures.fan.days.length : -1;
    chart.dispatchAction({ type: "showTip", seriesIndex: beyond < 0 ? 0 : 1, dataIndex: beyond < 0 ? current[name] : beyond });
    const tip = document.querySelector(`#chart-${name} .tip`);
    document.getElementById("live-" + name).textContent = tip ? tip.innerHTML.replace(/<br>/g, "; ").replace(/<[^>]*>/g, "") : "";
  };
  const keys = (event) => {
    const name = event.currentTarget.dataset.chart, count = steps(name);
    const now = current[name] === undefined ? count : current[name];
    const to = { ArrowLeft: now - 1, ArrowRight: now + 1, Home: 0, End: count - 1 }[event.key];
    if (event.key === "Escape") drawn[name].dispatchAction({ type: "hideTip" });
    if (to === undefined) return;
    event.preventDefault();
    show(name, to);
  };

  for (const name of Object.keys(figures)) {
    const element = document.getElementById("chart-" + name);
    if (!element) continue;
    draw(name);
    element.addEventListener("keydown", keys);
    // ECharts would swallow every turn of the wheel, also those that it ignores.
    for (const kind of ["wheel", "mousewheel"]) {
      element.addEventListener(kind, (event) => { if (!event.ctrlKey) event.stopPropagation(); }, { capture: true, passive: true });
    }
    element.addEventListener("blur", () => drawn[name].dispatchAction({ type: "hideTip" }));
    if (name === "past") zoomTo(name, narrow(element) ? 30 : 90);
    if (name === "fan" && narrow(element)) zoomTo(name, 30);
    let width = element.clientWidth;
    new ResizeObserver(() => {
      if (element.clientWidth === width) return;
      width = element.clientWidth;
      drawn[name].resize();
      draw(name);
    }).observe(element);
  }
  for (const button of document.querySelectorAll("button[data-chart]")) {
    if (!drawn[button.dataset.chart]) continue;
    button.addEventListener("click", () => zoomTo(button.dataset.chart, Number(button.dataset.days)));
    press(button.dataset.chart);
  }

  // The figures of each chart as rows of a file; of most charts they are a column each, beside the days.
  const BOUNDS = BANDS.flatMap((one) => ["lower_" + one, "upper_" + one]);
  const tables = {
    fan: (f) => [
      ["day", "series", "close_or_median", ...BOUNDS],
      ...f.days.map((day, n) => [day, "close", f.closes[n]]),
      ...[f.ahead, f.earlier].filter(Boolean).flatMap((run) => run.days.map((day, n) =>
        [day, "forecast from " + run.origin, run.point[n], ...BOUNDS.map((name) => (run[name] ? run[name][n] : null))])),
    ],
    pit: (f) => [["pit_from", "pit_to", "closes", "expected", "lower", "upper"],
      ...f.counts.map((count, n) => [n / 10, (n + 1) / 10, count, f.expected, f.lower, f.upper])],
    losses: (f) => [["network", "epoch", "training_loss", "validation_loss"],
      ...f.networks.flatMap((one) => one.training.map((loss, n) => [one.name, n + 1, loss, one.validation[n]]))],
  };
  const columns = (f) => {
    const names = Object.keys(f).filter((name) => Array.isArray(f[name]) && name !== "days");
    return [["day", ...names], ...f.days.map((day, n) => [day, ...names.map((name) => f[name][n])])];
  };
  const download = (name) => {
    const rows = (tables[name] || columns)(figures[name]), width = rows[0].length;
    const text = rows.map((row) => Array.from({ length: width }, (_, n) => row[n] ?? "").join(",") + "\r\n").join("");
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
    link.download = `${document.getElementById("figures").dataset.file}.${name}.csv`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  };
  for (const button of document.querySelectorAll("button[data-csv]")) {
    button.addEventListener("click", () => download(button.dataset.csv));
  }
  dark.addEventListener("change", () => Object.keys(drawn).forEach(draw));
  root.dataset.drawn = Object.keys(drawn).sort().join(" ");
})();

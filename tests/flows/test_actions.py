"""What a person does between the runs, where no command is needed to see it."""

from __future__ import annotations

import pytest

from flows.actions import require_horizon
from storage.core.errors import BadSetting
from tasks.profiles.article import ArticleProfile
from tests.calibrated import quick


def test_a_horizon_that_a_profile_lacks_is_refused_by_those_it_has() -> None:
    profile = quick(horizons=(1, 3, 7))
    require_horizon(profile, 3)
    require_horizon(profile, 14, 1, 14)  # other settings forecast it before
    with pytest.raises(BadSetting, match=r"profile calibrated has no horizon 14, only 1, 3, 7$"):
        require_horizon(profile, 14)
    with pytest.raises(BadSetting, match=r"profile article has no horizon 7, only 1$"):
        require_horizon(ArticleProfile(), 7)

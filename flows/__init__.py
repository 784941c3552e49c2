"""What happens, in order: each flow reads as one paragraph."""

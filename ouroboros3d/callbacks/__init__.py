"""Optional things around the core: pictures, results, predictions, run statistics."""

"""Charts as inline SVG: what is drawn, its scales, and the drawing; every point says its numbers."""

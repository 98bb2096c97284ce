"""The consistency loss over any choice of points, levels, targets and places of comparison."""

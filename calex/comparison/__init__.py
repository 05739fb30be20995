"""Operating points against one another: the Pareto fronts, the points to deploy at a budget, paired differences."""

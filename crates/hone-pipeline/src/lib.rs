//! Recipes, quickstart and comparisons.

"""Comparing the trials of a sweep: statistics, tables, figures and one page. It knows neither Ray nor MLflow."""

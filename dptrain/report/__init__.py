"""From numbers to words, tables, figures and pages."""

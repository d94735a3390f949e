"""What a person reads: tables, figures, and report.html."""

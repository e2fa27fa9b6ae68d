"""What a person sees while a command runs and after it: bars, tables, summaries. Data is never read as markup."""

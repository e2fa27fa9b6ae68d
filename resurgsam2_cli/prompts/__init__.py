"""What the user asks for: prompts, prompt files, and the expressions of data sets."""

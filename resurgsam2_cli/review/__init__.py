"""The review page: a page on this machine on which a person sees what is worth a look, and corrects it."""

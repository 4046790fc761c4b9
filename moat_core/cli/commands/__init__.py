"""One verb a module; imported when the verb is used."""

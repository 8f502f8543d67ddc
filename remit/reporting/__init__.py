"""What an agent's runs came to in a period, as figures, as a table and as a page."""

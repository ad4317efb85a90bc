"""Reports on recorded conversations: who speaks when, and with which expression."""

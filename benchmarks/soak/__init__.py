"""`bench soak`: a server under load for long, what it grows by, and how soon it answers again after each fault."""

"""How the process uses the machine: threads, interruption, and settings of the system's libraries."""

"""What a terminal shows: live lines, tables and sentences made of figures."""

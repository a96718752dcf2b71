"""The launcher of a task with several processes, and what it and its workers tell each other about failures."""

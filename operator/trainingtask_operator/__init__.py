"""The operator: turns TrainingTasks into Jobs, and what becomes of the Jobs into status and history."""

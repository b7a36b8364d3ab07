"""The training loop and what it stands on: loader, loss, optimizers, schedule, checkpoints.

Public face: ``trainer.Trainer``, ``trainer.TrainingPlan``, ``loader.TokenLoader``, ``schedule.Schedule``.
"""

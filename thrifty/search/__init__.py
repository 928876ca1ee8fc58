"""The first stage: differentiable searches. No ray in here apart from the stage itself, which hands its trials over."""

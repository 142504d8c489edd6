"""Python graders, run by anybody, harming nobody: the `graders.ports.Sandbox` of the service."""

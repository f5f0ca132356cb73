"""What generation needs besides the model: kv cache, sampling, prompt lookup, hooks, argument checks."""

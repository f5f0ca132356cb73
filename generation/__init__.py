"""What generation needs beside the model: kv cache, sampling, prompt lookup, hooks, what is refused."""

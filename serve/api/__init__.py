"""The HTTP side of the endpoint: admission, requests, answers, errors, playground."""

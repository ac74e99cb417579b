"""`distill export`: an arm's examples in the formats that other trainers read, with where everything came from."""

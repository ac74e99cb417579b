"""`distill export`: an arm's examples in the formats of other trainers, with a card that names all sources."""

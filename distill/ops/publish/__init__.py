"""`distill publish`: a trained student as a folder that other programs open, with what is known of it."""

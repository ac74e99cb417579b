"""Reads rows of data sets, whatever their files, and finds problems and completions in them.

One reader and one meaning for prompts and for imported traces, for files and for the hub: `files` and `hub` find what
is to be read, `formats` reads it, `values` and `json_text` say what a value is, `paths`, `turns` and `where` find
values in a row. A row that cannot be read is a `RawRow` with an error, never an exception.
"""

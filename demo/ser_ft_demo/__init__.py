"""The page of ser_ft: speak, drop a file, watch a call."""

"""The web page of ser_ft, built with gradio."""

"""The live page and the JSON API: what the views say, read in the background and shared by everybody who looks.

A process of its own, which only reads: `consumer web`. Starlette, uvicorn and Jinja come with the extra `web`.
"""

"""
Everything that patches other people's classes.

``base`` says what an integration and a sink are, ``patching`` puts patches on and takes them off,
``taps`` and ``methods`` are what the patches do. One module for each library knows its names.
"""

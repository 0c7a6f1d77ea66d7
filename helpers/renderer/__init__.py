"""Let physics label the data: encoder, mapper and renderer; pupils, molecules, deconvolution."""

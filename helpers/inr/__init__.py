"""Neural fields behind physics: see in 3D and 4D from a handful of views."""

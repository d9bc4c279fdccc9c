"""Do the cameras and the masks of an object belong together, and if not, which convention would mend it?"""

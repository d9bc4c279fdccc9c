"""From mesh files to a folder of rendered views: jobs, the processes that do them, and the lists of what is done."""

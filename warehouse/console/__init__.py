"""The console: the server of the page in which the rows of a question are the selection in every view (`traces console`)."""

"""Maximum mean discrepancy: the student's samples against data by a kernel, through its whole sampling chain."""

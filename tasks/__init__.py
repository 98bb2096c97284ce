"""What a stage does: reads inputs, calls fewstep, writes outputs; and what makes its result trustworthy."""

"""What a stage does: read inputs, call fewstep, write outputs. One module per stage."""

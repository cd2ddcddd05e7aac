"""What commands draw with: output, columns, tables and frames that move."""

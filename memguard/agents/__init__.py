"""What agents keep: their states, held smaller under pressure, and the pools they live in."""

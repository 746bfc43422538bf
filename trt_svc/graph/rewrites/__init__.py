"""Other forms of the same network, exact to rounding, one file each. Which one wins is measured, not believed."""

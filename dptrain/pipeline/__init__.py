"""The stages of a sweep and of `dptrain attack`: the only package that joins the halves."""

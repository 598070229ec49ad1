"""HTTP routes: one file per noun. They translate, they do not decide."""

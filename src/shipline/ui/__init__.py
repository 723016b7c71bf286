"""The pages of `shipline ui`: what was built, shipped and deployed, for one person."""

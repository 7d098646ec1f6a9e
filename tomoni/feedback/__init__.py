"""What people say about answers: kept, weighed, asked for, and given back to them. No torch."""

"""Speed, memory and accuracy of InfoNCE beside other ways to it; `scripts/infonce.py` is the way in."""

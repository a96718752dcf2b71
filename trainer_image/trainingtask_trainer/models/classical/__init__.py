"""Classical models of scikit-learn, applied to many labels."""

"The evolutionary search: plain values in, plain values out; it knows no arrays and no device."

"""What scikit-learn's forest makes of forestData in forest_test.go: accuracy on new rows and out of bag."""
import numpy as np
from sklearn.ensemble import RandomForestClassifier

MASK = (1 << 64) - 1


def uniform(n):
    """n numbers in [0, 1) of splitmix64."""
    state, out = 7, np.empty(n)
    for i in range(n):
        state = (state + 0x9E3779B97F4A7C15) & MASK
        z = state
        z = ((z ^ z >> 30) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ z >> 27) * 0x94D049BB133111EB) & MASK
        out[i] = ((z ^ z >> 31) >> 40) / 2**24
    return out


rows = uniform(1200 * 13).reshape(1200, 13)
x = rows[:, :12].copy()
x[:, 8:] = np.floor(3 * x[:, 8:])
score = np.stack([x[:, 0] + 0.5 * x[:, 8], 2 * x[:, 1] * x[:, 2] + 0.4 * (x[:, 9] == 1), 0.3 + 0.6 * x[:, 3]], 1)
y = np.where(rows[:, 12] < 0.15, np.floor(rows[:, 12] * 20).astype(int), score.argmax(1))
for leaf in (1, 5):
    forest = RandomForestClassifier(300, min_samples_leaf=leaf, oob_score=True, random_state=1).fit(x[:600], y[:600])
    print(leaf, round(forest.score(x[600:], y[600:]), 4))
    for seed in range(2, 6):
        print("  ", round(RandomForestClassifier(300, min_samples_leaf=leaf, random_state=seed).fit(x[:600], y[:600]).score(x[600:], y[600:]), 4))

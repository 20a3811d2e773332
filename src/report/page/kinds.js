// What there is to show: axes, charts, metrics and alarms by their names in the log.

const AXES = [
  { name: 'step', title: 'Iterations', one: 'iteration', unit: 'iterations' },
  { name: 'epoch', title: 'Epochs', one: 'epoch', unit: 'epochs' },
  { name: 'images', title: 'Images', one: 'image', unit: 'images seen' },
  { name: 'seconds', title: 'Time', one: 'after', unit: 'time' },
];

const series = (column, label) => ({ column, label });
const FAIR = Math.LN2;
// The charts of reports: those are drawn for which a run has a column.
const REPORT_CHARTS = [
  {
    group: 'Losses',
    title: 'Loss of the discriminator',
    series: [series('loss_d_real', 'real'), series('loss_d_fake', 'generated')],
    about: 'Near 0: it tells real from generated with ease, and the generator learns little.',
    references: [{ y: FAIR, label: 'a coin: ln 2' }],
  },
  {
    group: 'Losses',
    title: 'Loss of the generator',
    series: [series('loss_g', 'generator')],
    about: 'High: the discriminator knows its images. It need not fall while images become better.',
    references: [{ y: FAIR, label: 'a coin: ln 2' }],
  },
  {
    group: 'Losses',
    title: 'Distance to the true image',
    series: [series('distance', 'mean L1')],
    about: 'Of images made of pictures, of values from −1 to 1: 2 is white for black. --l1 asks it to fall.',
    zero: true,
  },
  {
    group: 'The discriminator’s level',
    title: 'Accuracy of the discriminator',
    fixed: [0, 1],
    series: [series('d_real_accuracy', 'real'), series('d_fake_accuracy', 'generated')],
    about: 'Share of images that it sorts rightly.',
    references: [{ y: 0.5, label: 'a coin' }],
  },
  {
    group: 'The discriminator’s level',
    title: 'Its answers',
    fixed: [0, 1],
    series: [series('d_real', 'D(x)'), series('d_fake', 'D(G(z))'), series('d_fake_after', 'D(G(z)) after')],
    about: 'Mean probability that an image is real: for real ones, for generated ones, and for these after its step.',
    references: [{ y: 0.5, label: 'undecided' }],
  },
  {
    group: 'The discriminator’s level',
    title: 'Certainty of the discriminator',
    fixed: [0, 1],
    series: [series('d_certainty', 'right and sure')],
    about: 'Share of images that it sorts rightly and is sure of. Near 1 for long: it is too strong.',
  },
  {
    group: 'The discriminator’s level',
    title: 'Sign of its answers on real images',
    fixed: [-1, 1],
    series: [series('d_real_sign', 'mean sign')],
    about: 'Near 1: it knows every real image. ADA holds it at 0.6.',
    references: [{ y: 0.6, label: 'ADA’s aim' }],
  },
  {
    group: 'The discriminator’s level',
    title: 'Its gradient by what it sees',
    series: [series('r1_norm', 'real'), series('r2_norm', 'generated')],
    about: 'Mean squared length of it at an image, which --r1 and --r2 hold down.',
    zero: true,
  },
  {
    group: 'The discriminator’s level',
    title: 'Held-out against seen: accuracy',
    fixed: [0, 1],
    series: [series('seen_accuracy', 'seen'), series('held_out_accuracy', 'held out')],
    about: 'On real images that it trained on, and that it never saw. A gap: it learns by heart.',
    references: [{ y: 0.5, label: 'a coin' }],
  },
  {
    group: 'The discriminator’s level',
    title: 'Held-out against seen: D(x)',
    fixed: [0, 1],
    series: [series('seen_d', 'seen'), series('held_out_d', 'held out')],
    about: 'Mean probability of being real, of the same images.',
    references: [{ y: 0.5, label: 'undecided' }],
  },
  {
    group: 'The discriminator’s level',
    title: 'Norm of the gradients',
    log: true,
    series: [series('d_gradient_norm', 'discriminator'), series('g_gradient_norm', 'generator')],
    about: 'Mean L2 norm. A generator’s near 0 has nothing to learn from.',
  },
  {
    group: 'Quality',
    title: 'Diversity',
    series: [series('diversity', 'all pairs'), series('diversity_nearest', 'nearest')],
    about: 'Distance between generated images, by that between real ones. Towards 0: collapse; the nearest alone: a few images.',
    references: [{ y: 1, label: 'as the data' }],
  },
  {
    group: 'Pace',
    title: 'Learning rates',
    log: true,
    series: [series('lr_d', 'discriminator'), series('lr_g', 'generator')],
    about: 'As used, with decay and balance.',
  },
  {
    group: 'Pace',
    title: 'Steps left out',
    series: [series('d_left_out', 'discriminator'), series('g_left_out', 'generator')],
    about: 'So far, by balance or by training the discriminator ahead.',
    unlessZero: true,
  },
  {
    group: 'Pace',
    title: 'Steps without a finite gradient',
    series: [series('d_skipped', 'discriminator'), series('g_skipped', 'generator')],
    about: 'Left out so far.',
    unlessZero: true,
  },
  {
    group: 'Pace',
    title: 'Speed',
    series: [series('images_per_sec', 'images a second')],
    about: 'Training images a second.',
    zero: true,
  },
];
const METRICS = {
  swd: ['Sliced Wasserstein distance', 'Lower is better, down to that of real images.'],
  fid: ['FID', 'Fréchet distance on Inception’s features. Lower is better.'],
  kid: ['KID', 'Kernel distance on features. Lower is better.'],
  frechet: ['Fréchet distance', 'On the features of a classifier: not FID. Lower is better.'],
  kernel: ['Kernel distance', 'On the features of a classifier: not KID. Lower is better.'],
  precision: ['Precision', 'Share of generated images that are among the real ones.'],
  recall: ['Recall', 'Share of real images that are among the generated ones.'],
  density: ['Density', 'How many neighbourhoods of real images a generated one is in.'],
  coverage: ['Coverage', 'Share of real images with a generated one in their neighbourhood.'],
  neighbours: [
    'Nearest training image',
    'Median distance from generated images. Far below that of real ones: it copies.',
  ],
  'ms-ssim': ['MS-SSIM', 'Likeness of pairs of images: higher than that of real ones, they are less diverse.'],
};
// Names of metrics, those that are known first.
const inOrder = (names) => [
  ...Object.keys(METRICS).filter((name) => names.includes(name)),
  ...names.filter((name) => !Object.hasOwn(METRICS, name)),
];
const metricTitle = (name) => (Object.hasOwn(METRICS, name) ? METRICS[name] : [name, '']);
const alarmTitle = (name) => (Object.hasOwn(ALARMS, name) ? ALARMS[name] : name);
const GROUPS = ['Losses', 'The discriminator’s level', 'Quality', 'Pace'];
const ALARMS = {
  collapse: 'Collapse',
  'discriminator-saturated': 'Discriminator saturated',
  'generator-starved': 'Generator starved',
  'learning-by-heart': 'Learning by heart',
  'not-finite': 'Values not finite',
};
